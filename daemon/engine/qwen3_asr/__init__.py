"""Qwen3-ASR: loading, prompt, prefill, decode steps and the text they yield."""
