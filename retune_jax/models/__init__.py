"""The language model: LLaMA, its adapters, its known shapes, and how it lies on a mesh. Nothing here knows tasks."""
