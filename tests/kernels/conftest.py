import jaxtyping
import pytest


@pytest.fixture
def unenforced():
    """Without enforced annotations, so that a function's own checks of its arguments are what refuses them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
