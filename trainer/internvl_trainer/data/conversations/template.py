"""How a conversation becomes text: InternVL's ChatML, as of 2.5 and as of 2.0 and before.

All three have turns of `<|im_start|>ROLE`, a newline, the text and `<|im_end|>`. `internvl2_5` (2.5, 3 and 3.5 with
Qwen) ends each turn with a newline, takes turns in any order, and a system turn of the conversation's own.
`Hermes-2` and `internlm2-chat` have no newline there, alternate strictly, begin with a human turn (an answer before the
first one is left out), know no system turn but the built-in one, and leave the turn of an empty text open. Source: the
released templates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from internvl_trainer.data.errors import TurnOrderError
from internvl_trainer.data.records import Role, Turn

TemplateName = Literal["internvl2_5", "internlm2-chat", "Hermes-2"]

SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
"""What InternVL-2.5 models are told when a conversation does not begin with a system turn of its own."""

OLDER_SYSTEM_MESSAGE = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
)
"""What models up to InternVL 2.0 are told, in every conversation."""

HEADERS: dict[Role, str] = {
    "system": "<|im_start|>system\n",
    "human": "<|im_start|>user\n",
    "gpt": "<|im_start|>assistant\n",
}


@dataclass(frozen=True)
class Template:
    """One way of writing conversations.

    Attributes:
        system_message: of conversations that bring none.
        turn_end: what closes every turn.
        by_turn: every turn is tokenised on its own, and system turns and any order of turns are allowed; else the
            whole text is tokenised at once, and the rules of the older templates hold.
        begins_with_bos: the tokenizer's first token, if it has one, stands at the start.
        strips: white space around each turn's text is left out.
    """

    name: TemplateName
    system_message: str
    turn_end: str
    by_turn: bool
    begins_with_bos: bool
    strips: bool

    def begun(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        """The turns that the template writes: an older one leaves out an answer before the first question."""
        return turns if self.by_turn or turns[0].role != "gpt" else turns[1:]

    def arrange(self, sample: str, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns of `begun` as the template writes them, beginning with a system turn.

        Raises:
            TurnOrderError: an older template, and a system turn, or human and gpt turns that do not alternate.
        """
        if self.by_turn:
            return tuple(turns) if turns[0].role == "system" else (Turn("system", self.system_message), *turns)
        for position, turn in enumerate(turns):
            if turn.role != (expected := ("human", "gpt")[position % 2]):
                raise TurnOrderError(
                    sample,
                    f"turn {position} is of {turn.role} where template {self.name} has {expected}; "
                    "human and gpt turns must alternate, without a system turn. Template internvl2_5 takes any order",
                )
        texts = (turn.text.strip() if self.strips else turn.text for turn in turns)
        arranged = (Turn(turn.role, text) for turn, text in zip(turns, texts, strict=True))
        return (Turn("system", self.system_message), *arranged)

    def write(self, turn: Turn) -> str:
        """The text of one turn; of an empty one an older template writes the header alone."""
        closed = bool(turn.text) or self.by_turn
        return HEADERS[turn.role] + (turn.text + self.turn_end if closed else "")

    def text(self, turns: Sequence[Turn], *, open_answer: bool = False) -> str:
        """The text of arranged turns; `open_answer` ends it with the header of an answer to come."""
        return "".join(self.write(turn) for turn in turns) + (HEADERS["gpt"] if open_answer else "")


TEMPLATES: dict[TemplateName, Template] = {
    "internvl2_5": Template("internvl2_5", SYSTEM_MESSAGE, "<|im_end|>\n", True, True, False),
    "internlm2-chat": Template("internlm2-chat", OLDER_SYSTEM_MESSAGE, "<|im_end|>", False, True, True),
    "Hermes-2": Template("Hermes-2", OLDER_SYSTEM_MESSAGE, "<|im_end|>", False, False, False),
}
