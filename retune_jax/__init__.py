"""Re-Tuning (Pasewark et al., ACL 2024) in JAX: language models that solve problems by calling themselves."""

__version__ = "0.1.0"
