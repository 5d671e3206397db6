from tests.stages.conftest import base_store  # noqa: F401
