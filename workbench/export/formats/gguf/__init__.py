"""GGUF files for llama.cpp and what is built on it, such as Ollama."""

from workbench.export.formats.gguf.write import write_gguf

__all__ = ["write_gguf"]
