"""Qwen3-ASR: loading, prompts, prefill, decode steps, and the text of what was generated."""
