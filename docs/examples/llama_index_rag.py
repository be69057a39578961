"""LlamaIndex with a GRACE model: index documents, retrieve for a question, and read what the model thought.

    pip install -c constraints.txt -e ".[ecosystem]"
    python docs/examples/llama_index_rag.py

The bundled grace-nano knows a few hundred facts; name another model folder in MODEL for texts of your own.
"""

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

import grace_st

MODEL = str(grace_st.nano_path())

DOCUMENTS = [
    "France. Geographers place it in Western Europe, and the talk there is in French.",
    "Japan lies in East Asia. A visitor hears Japanese in the streets.",
    "Egypt belongs to North Africa, where people speak Arabic.",
    "Norway is part of Scandinavia, and Norwegian is the common tongue.",
    "Kenya is a land in East Africa with many speakers of Swahili.",
]
# No document names the capital or the pyramids: the model has to know.
QUESTION = "The land has its government in Cairo and is proud of the pyramids of Giza."


def main() -> None:
    """Index, retrieve, and show the rationale of the question."""
    embed_model = HuggingFaceEmbedding(
        model_name=MODEL,
        trust_remote_code=True,
        device="cpu",
        embed_batch_size=256,
        config_kwargs={"max_new_tokens": 64},
    )
    index = VectorStoreIndex.from_documents([Document(text=text) for text in DOCUMENTS], embed_model=embed_model)
    retriever = index.as_retriever(similarity_top_k=2)

    print("question: ", QUESTION)
    # LlamaIndex keeps the SentenceTransformer to itself (`_model`); a second copy would need its memory again.
    (encoding,) = grace_st.encode_with_rationales(embed_model._model, QUESTION)
    print("rationale:", encoding.rationale)
    for rank, found in enumerate(retriever.retrieve(QUESTION), start=1):
        print(f"{rank}.        ", found.node.get_content())
    # From here on it is any LlamaIndex application: index.as_query_engine(llm=...) hands the texts to a language model.


if __name__ == "__main__":
    main()
