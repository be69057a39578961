"""LangChain with a GRACE model: index documents, retrieve for a question, and read what the model thought.

    pip install -c constraints.txt -e ".[ecosystem]"
    python docs/examples/langchain_rag.py

The bundled grace-nano knows a few hundred facts; name another model folder in MODEL for texts of your own.
"""

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings

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
    embeddings = HuggingFaceEmbeddings(
        model_name=MODEL,
        model_kwargs={"trust_remote_code": True, "device": "cpu"},
        encode_kwargs={"batch_size": 256, "max_new_tokens": 64},
    )
    store = InMemoryVectorStore(embeddings)
    store.add_texts(DOCUMENTS)
    retriever = store.as_retriever(search_kwargs={"k": 2})

    print("question: ", QUESTION)
    # LangChain keeps the SentenceTransformer to itself (`_client`); a second copy would need its memory again.
    (encoding,) = grace_st.encode_with_rationales(embeddings._client, QUESTION, max_new_tokens=64)
    print("rationale:", encoding.rationale)
    for rank, document in enumerate(retriever.invoke(QUESTION), start=1):
        print(f"{rank}.        ", document.page_content)
    # From here on it is any LangChain application: the retrieved texts go into the prompt of a chat model.


if __name__ == "__main__":
    main()
