"""The fixtures of the integration tests serve here too."""

from tests.integration.conftest import make_instance, references

__all__ = ["make_instance", "references"]
