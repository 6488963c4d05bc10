"""Conversations as token ids and labels, in InternVL's templates."""

from internvl_trainer.data.conversations.encoder import ConversationEncoder, ConversationTokenizer, Encoded
from internvl_trainer.data.conversations.labels import IGNORED
from internvl_trainer.data.conversations.placeholders import IMAGE_PLACEHOLDER
from internvl_trainer.data.conversations.template import SYSTEM_MESSAGE, TEMPLATES, Template, TemplateName

__all__ = [
    "IGNORED",
    "IMAGE_PLACEHOLDER",
    "SYSTEM_MESSAGE",
    "TEMPLATES",
    "ConversationEncoder",
    "ConversationTokenizer",
    "Encoded",
    "Template",
    "TemplateName",
]
