"""The fixture of the integration tests serves here too."""

from tests.integration.conftest import make_instance

__all__ = ["make_instance"]
