"""The paper's tables and figures, each a declared set of cells: a model, how it is read, what is measured."""
