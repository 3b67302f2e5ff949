"""Functions written for GPUs in Triton, each with a plain PyTorch definition that tests compare it with.

Only these modules import Triton, which comes with torch for CUDA and is missing elsewhere.
"""
