"""GraceModelCardData: the README that sentence-transformers writes beside a saved model."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData

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
    tags: list[str] = field(
        default_factory=lambda: [
            "sentence-transformers",
            "sentence-similarity",
            "feature-extraction",
            "dense",
            "grace",
            "custom_code",
        ]
    )
    template_path: Path = field(
        default=Path(str(importlib.resources.files("grace_st"))) / "templates" / "model_card.md.jinja",
        init=False,
        repr=False,
    )

    def get_model_specific_metadata(self) -> dict[str, Any]:
        """What the template says about the model, beside what sentence-transformers finds out.

        Raises:
            ValueError: The model writes no rationales.
        """
        metadata: dict[str, Any] = super().get_model_specific_metadata()
        if self.model is None:
            return metadata
        config = grace_module(self.model).config
        # One line each, in which a table's bar is no bar.
        prompts = {
            name: "`" + json.dumps(text, ensure_ascii=False).replace("|", "\\|") + "`"
            for name, text in self.model.prompts.items()
            if text
        }
        return {
            **metadata,
            "max_new_tokens": config.max_new_tokens,
            "pooling": config.pooling,
            "pooling_span": config.pooling_span,
            "prompts": prompts,
        }
