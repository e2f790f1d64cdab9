"""Any model by name as a `ChatModel`; cheap to import, Inspect loads when a model is built."""

from demur.core.chat import ChatModel
from demur.models import parse_model


def chat_model(name: str) -> ChatModel:
    """A model by demur's or Inspect's name.

    Raises:
        UnknownNameError: The name has none of the known forms.
        MissingExtraError: Inspect is not installed.
    """
    spec = parse_model(name)
    from demur.evals.compat import require_inspect

    require_inspect()
    from inspect_ai.model import get_model

    from demur.evals.provider import InspectChatModel

    return InspectChatModel(get_model(f"demur/{name}" if spec.is_local else name))
