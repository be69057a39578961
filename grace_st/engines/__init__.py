"""Engines: token ids in, rationale and pooled vector out. They know neither texts nor templates."""
