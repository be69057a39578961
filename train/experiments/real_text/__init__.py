"""Real text: a small model of MedQuAD, SNIPS and WikiText-2, trained on MedQuAD and measured on other data as well."""
