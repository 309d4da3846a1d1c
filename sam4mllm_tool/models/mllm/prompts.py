"""From the turns of a question to the token ids that a model reads.

The picture goes where the model's own chat template puts it, in the first user turn. Its placeholder is expanded (to some
hundred tokens, in some families with row and column marks) by the model's own processor, once per picture: how one prompt
was expanded is remembered and done again to the others of that picture. What a turn says stays text, whatever it spells.
Training asks here too (`ids`, `answer`), so that a model learns to answer exactly what it will read.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import jinja2
from torch import Tensor

from sam4mllm_tool.errors import ExpressionError, SpecError
from sam4mllm_tool.types import Image, Turn

__all__ = ["Expansion", "Ids", "Picture", "Prompt", "Prompter"]

Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Expansion:
    """What a processor did to the ids of a rendered prompt: after `before`, `removed` became `inserted`."""

    before: Ids
    removed: Ids
    inserted: Ids

    @classmethod
    def between(cls, plain: Ids, expanded: Ids) -> "Expansion":
        """The one change that leads from the plain ids to the expanded ones."""
        shorter = min(len(plain), len(expanded))
        start = next((i for i in range(shorter) if plain[i] != expanded[i]), shorter)
        most = shorter - start
        same = next((k for k in range(most) if plain[-1 - k] != expanded[-1 - k]), most)
        return cls(plain[:start], plain[start : len(plain) - same], expanded[start : len(expanded) - same])

    def apply(self, plain: Ids) -> Ids | None:
        """The expanded ids; None where these begin otherwise."""
        begin = self.before + self.removed
        if plain[: len(begin)] != begin:
            return None
        return self.before + self.inserted + plain[len(begin) :]


@dataclass(eq=False)
class Picture:
    """A picture as one model reads it.

    inputs: the processor's tensors for it, without those that run along the tokens. features: what the model's encoder
    made of them, where the family lets it be handed over. expansions: how its placeholder was expanded so far. written_whole:
    whether the family has inputs along the tokens, so that its processor has to write every prompt.
    """

    image: Image
    inputs: dict[str, Tensor] = field(default_factory=dict)
    features: Any = None
    expansions: list[Expansion] = field(default_factory=list)
    written_whole: bool = False


@dataclass(frozen=True, eq=False)
class Prompt:
    """ids: the whole prompt, up to where the answer begins. extras: (1, n) tensors that run along them, in few families."""

    ids: Ids
    extras: dict[str, Tensor]


class Prompter:
    """Writes prompts for one checkpoint, by its own processor, tokenizer and chat template.

    longest: how many tokens the model can read, None for any number.
    Raises SpecError for a processor without a chat template.
    """

    def __init__(self, processor: Any, name: str, longest: int | None = None) -> None:
        self.processor, self.tokenizer, self.name, self.longest = processor, processor.tokenizer, name, longest
        self._template = _chat_template(processor, name)
        control = _control_tokens(processor)
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.IGNORECASE)
        self._control_ids = frozenset(control.values())
        self.as_text = lru_cache(1024)(self._as_text)

    def write(self, picture: Picture, turns: Sequence[Turn]) -> Prompt:
        """The prompt of a question about a picture; the first one fills in the picture's inputs.

        Raises ExpressionError for one that is too long for the model, and what `render` raises.
        """
        rendered = self.render(turns)
        plain = self._fitting(self._encode(rendered, **self._options(rendered)))
        if not picture.written_whole and (known := self._expanded(picture, plain)) is not None:
            return Prompt(known, {})
        inputs = self.prepare(picture.image, rendered)
        read = inputs.pop("input_ids")
        ids = self._fitting(tuple(read[0].tolist()))
        extras = {name: value for name, value in inputs.items() if value.shape == read.shape}
        if not picture.inputs:
            picture.inputs = {name: value for name, value in inputs.items() if name not in extras}
        picture.written_whole = bool(extras)
        if not extras:  # a family with other inputs along the tokens has its processor write every prompt
            picture.expansions.append(Expansion.between(plain, ids))
        return Prompt(ids, extras)

    def prepare(self, image: Image, rendered: str) -> dict[str, Tensor]:
        """The processor's tensors: `input_ids` (1, n) of a rendered prompt, what runs along them, and the picture's."""
        inputs = self.processor(text=[rendered], images=[image], return_tensors="pt", **self._options(rendered))
        return {name: value for name, value in inputs.items() if name != "attention_mask" and isinstance(value, Tensor)}

    def ids(self, picture: Picture, turns: Sequence[Turn]) -> Ids:
        """The ids of `write`, for little work once the picture's placeholder was expanded. Raises what `write` raises."""
        rendered = self.render(turns)
        plain = self._encode(rendered, **self._options(rendered))
        if (known := self._expanded(picture, plain)) is not None:
            return known
        written = self.write(picture, turns)
        if picture.written_whole:
            picture.expansions.append(Expansion.between(plain, written.ids))
        return written.ids

    def answer(self, turns: Sequence[Turn]) -> Ids:
        """What a model has to generate after the prompt of all turns but the last, to say the last and then stop.

        turns: end with the assistant's. The ids end with the control token that the template writes after the text, or with
        the tokenizer's end token where it writes none. Raises SpecError where the template hides the answer, and what
        `render` raises.
        """
        prompt, said = self.render(turns[:-1]), self.render(turns, asks=False)
        text = self.as_text(turns[-1].text).strip()
        if said.startswith(prompt):
            said = said[len(prompt) :]
            start, at = 0, said.find(text)
        else:  # the template writes what it asks with differently from what was answered
            start = at = said.rfind(text)
        if at < 0:
            raise SpecError(f"the chat template of {self.name!r} doesn't write the answer {text[:80]!r}: it can't be learnt")
        closed = self._control.search(said, at + len(text))
        ending = said[at + len(text) : closed.end()] if closed else self.tokenizer.eos_token or ""
        return self._encode_after(prompt, said[start : at + len(text)] + ending)

    def _encode_after(self, prompt: str, text: str) -> Ids:
        """The ids of a text that goes on where a rendered prompt ends, none of them merged with the prompt's."""
        options = self._options(prompt)
        before, whole = self._encode(prompt, **options), self._encode(prompt + text, **options)
        return whole[len(before) :] if whole[: len(before)] == before else self._encode(text)

    def render(self, turns: Sequence[Turn], *, asks: bool = True) -> str:
        """The prompt as the chat template writes it, the picture still a placeholder.

        asks: whether it goes on to where the assistant answers. Without, turns may end with the assistant's.
        A template that knows no system turn, or leaves it out, gets its text at the head of the first user turn.
        Raises ExpressionError where a turn's text turns into control tokens whatever is done, SpecError where the template
        can't write the turns.
        """
        said = [Turn(turn.role, self.as_text(turn.text)) for turn in turns]
        system = [turn.text for turn in said if turn.role == "system"]
        try:
            rendered = self._apply(said, asks)
        except jinja2.TemplateError as error:
            if not system:
                raise SpecError(f"the chat template of {self.name!r} can't write the dialogue: {error}") from error
        else:
            if all(text.strip() in rendered for text in system):
                return rendered
        return self.render(_fold_system(said), asks=asks)

    def _apply(self, turns: Sequence[Turn], asks: bool) -> str:
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        conversation = [
            {
                "role": turn.role,
                "content": [{"type": "image"}] * (i == first) + [{"type": "text", "text": turn.text}],
            }
            for i, turn in enumerate(turns)
        ]
        rendered = self.processor.apply_chat_template(
            conversation, chat_template=self._template, tokenize=False, add_generation_prompt=asks
        )
        return str(rendered)

    def _options(self, rendered: str) -> dict[str, bool]:
        """A template that writes the first token itself must not get a second one from the tokenizer."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": not (bos and rendered.startswith(bos))}

    def _as_text(self, text: str) -> str:
        """The text, each control token in it broken by a blank (`< image>`), so that it is read as it is spelled.

        Only the ids tell what a tokenizer takes for a control token, so they are what is looked at, before and after.
        """
        if not self._has_control(text):
            return text
        broken = self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        if self._has_control(broken):
            broken = self._control.sub(" ", unicodedata.normalize("NFKC", text))
        if self._has_control(broken):
            raise ExpressionError(f"{self.name!r} reads control tokens in {text[:200]!r}: leave them out")
        return broken

    def _has_control(self, text: str) -> bool:
        return not self._control_ids.isdisjoint(self._encode(text))

    def spellings(self, word: str) -> tuple[Ids, ...]:
        """The token ids that can write a word where an answer begins: with and without a blank before it.

        Some templates end in the blank, others leave it to the model ("ASSISTANT:" in LLaVA 1.5), and tokenizers differ
        in whether a word alone gets one. Raises SpecError for a word that this tokenizer can't write.
        """
        line = self._encode("\n")
        after_line = self._encode("\n" + word)
        spellings = [self._encode(word), self._encode(" " + word)]
        if line and after_line[: len(line)] == line:
            spellings.append(after_line[len(line) :])
        unknown = self.tokenizer.unk_token_id
        usable = [ids for ids in spellings if ids and unknown not in ids and self.tokenizer.decode(ids[:1]).strip()]
        if not usable:
            raise SpecError(f"{self.name!r} has no token for the answer {word!r}: choose a dialect that fits the model")
        return tuple(dict.fromkeys(usable))

    def _expanded(self, picture: Picture, plain: Ids) -> Ids | None:
        """The ids with the picture's placeholder expanded as it was before; None where none of its prompts began alike."""
        found = (ids for expansion in picture.expansions if (ids := expansion.apply(plain)) is not None)
        return next((self._fitting(ids) for ids in found), None)

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> Ids:
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoded["input_ids"])

    def _fitting(self, ids: Ids) -> Ids:
        if self.longest is not None and len(ids) >= self.longest:
            raise ExpressionError(f"the question takes {len(ids)} tokens, {self.name!r} reads {self.longest}: shorten it")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without control tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()


def _chat_template(processor: Any, name: str) -> str:
    templates = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(templates, dict):
        templates = templates.get("default")
    if not templates:
        raise SpecError(f"{name!r} has no chat template: expected a checkpoint tuned to answer, not a pretrained base")
    return str(templates)


def _control_tokens(processor: Any) -> dict[str, int]:
    """What must not arise from a turn's text: special tokens, placeholders, and added tokens that look like neither
    words nor blanks. The unknown token may: it says that a word is unknown."""
    tokenizer = processor.tokenizer
    placeholders = {getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio", "boi", "eoi")}
    return {
        token.content: i
        for i, token in tokenizer.added_tokens_decoder.items()
        if i != tokenizer.unk_token_id
        and (token.special or token.content in placeholders or re.search(r"[^\w\s]", token.content))
    }


def _fold_system(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without system turns, their text at the head of the first user turn."""
    system = [turn.text for turn in turns if turn.role == "system"]
    kept = [turn for turn in turns if turn.role != "system"]
    first = next(i for i, turn in enumerate(kept) if turn.role == "user")
    kept[first] = Turn("user", "\n\n".join([*system, kept[first].text]))
    return kept
