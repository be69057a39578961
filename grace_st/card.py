"""GraceModelCardData: the README that sentence-transformers writes beside a saved model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData

from grace_st.cards.citation import CITATION
from grace_st.cards.render import TAGS, TEMPLATE, Marker
from grace_st.cards.settings import Settings, shown_prompts
from grace_st.encoding import grace_module


@dataclass
class GraceModelCardData(SentenceTransformerModelCardData):
    """Data and template of a GRACE model's card.

    `GraceModel` uses it by itself. The stock class writes a card of its own kind, unless the folder that it loaded
    has one (then it is kept) or this is given: ``SentenceTransformer(..., model_card_data=GraceModelCardData())``.

    Attributes:
        made_from: Which model it was converted from.
        generate_widget_examples: False, since saving should not generate rationales.
    """

    made_from: str | None = None
    generate_widget_examples: bool = False
    tags: list[str] = field(default_factory=lambda: list(TAGS))
    template_path: Path = field(default=TEMPLATE, init=False, repr=False)

    def get_model_specific_metadata(self) -> dict[str, Any]:
        """What the template says about the model, beside what sentence-transformers finds out.

        Raises:
            ValueError: The model writes no rationales.
        """
        metadata: dict[str, Any] = super().get_model_specific_metadata()
        if self.model is None:
            return metadata
        module = grace_module(self.model)
        config = module.config
        settings = Settings(
            architecture=type(module.model).__name__,
            modules=", ".join(type(part).__name__ for part in self.model),
            dimension=metadata["output_dimensionality"],
            similarity=metadata["similarity_fn_name"],
            max_seq_length=metadata["model_max_length"],
            max_new_tokens=module.max_new_tokens,
            pooling=config.pooling,
            pooling_span=config.pooling_span,
            system_prompt=config.system_prompt,
            prompts=shown_prompts(self.model.prompts),
        )
        return {
            **metadata,
            "settings": settings,
            "status": "saved",
            "blocks": {},
            "citation": CITATION,
            "mark": Marker("saved", self.made_from),
        }
