"""griffe extension: the documentation of settings is their own, in ``option(default, "what it means")``.

``grace_train.options.option`` keeps it in the dataclass field, where ``grace-st train --show-config`` finds it. Read
statically, a field has no docstring and a call as its default. Here the class gets a section with its settings.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe


class Settings(griffe.Extension):
    """Give classes made of `option` fields a section `Attributes`, and their fields plain defaults."""

    def on_attribute_instance(self, *, node: ast.AST, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Note what an `option` says, and leave its default as the value."""
        call = getattr(node, "value", None)
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "option"):
            return
        given = dict(zip(("default", "doc"), call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if "factory" in given:
            attr.value = f"{ast.unparse(given['factory'])}()"
        else:
            attr.value = ast.unparse(given["default"]) if "default" in given else None
        # A group of settings is described by its own class.
        doc = ast.literal_eval(given["doc"]) if "doc" in given else f"See `{ast.unparse(given['factory'])}`."
        attr.extra["settings"]["doc"] = " ".join(doc.split())

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add the section to the class's docstring."""
        lines = [
            f"    {name}: {member.extra['settings']['doc']}"
            for name, member in cls.members.items()
            if "settings" in member.extra
        ]
        if lines and cls.docstring is not None:
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *lines])
