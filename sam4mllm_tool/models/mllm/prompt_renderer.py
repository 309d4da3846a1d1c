"""Turn the turns of a question into the token ids that a model reads.

The model's own chat template places the image in the first user turn. The model's own processor expands its placeholder to
some hundred tokens (in some families with row and column marks), once per image: the expansion of one prompt is recorded and
replayed on other prompts of the image. The text of a turn stays text: control tokens in it are broken up. Training renders its
examples here too (`token_ids`, `answer_ids`), so a model learns to answer exactly the prompts that it will read.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jinja2
from torch import Tensor

from sam4mllm_tool.errors import ExpressionError, SpecError
from sam4mllm_tool.models.mllm.image_preparation import ImagePreparation, read_resizing
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, PlaceholderExpansion, TokenIds, TokenizedPrompt
from sam4mllm_tool.protocol.thoughts import close_thought, is_thought_mark
from sam4mllm_tool.types import Image, Turn

__all__ = ["PromptRenderer"]

_GROUNDING = re.compile(
    r"<loc_?\d+>|</?(?:ref|box|quad|point)>|<\|(?:object_ref|box|quad|point)_(?:start|end)\|>|<\|(?:begin|end)_of_box\|>"
)
"""Tokens with which families write boxes and what is in them. They tell a label from a place, and control nothing."""

_TASK_TEMPLATE = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list | last %}IMAGE"
    "{% for part in asked['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if messages[-1]['role'] == 'assistant' %}{{ messages[-1]['content'][0]['text'] }}{% endif %}"
)
"""For families that have no chat template because they were trained on tasks: the last question is the whole prompt."""
_TASK_TEMPLATES = {
    "PaliGemmaProcessor": _TASK_TEMPLATE.replace("IMAGE", "<image>"),
    "Florence2Processor": _TASK_TEMPLATE.replace("IMAGE", ""),  # it adds the image's tokens itself
}

_UNUSED_INPUTS = ("attention_mask", "labels")
"""A prompt is read whole, without padding; labels are for training (PaliGemma's processor makes some)."""


_FEW = 3
"""From so many texts on they are encoded in one call; the check of fewer is worth remembering."""


class PromptRenderer:
    """Renders and tokenizes prompts for one checkpoint, with its own processor, tokenizer and chat template.

    Args:
        processor: The checkpoint's processor.
        name: The checkpoint's name, for messages.
        longest: How many tokens the model can read; None for no limit.
        max_pixels: As in `LoadOptions`.

    Raises:
        SpecError: The processor has no chat template.
    """

    def __init__(self, processor: Any, name: str, longest: int | None = None, max_pixels: int | None = None) -> None:
        self.processor, self.tokenizer, self.name, self.longest = processor, processor.tokenizer, name, longest
        self._preparation = ImagePreparation.for_processor(processor.image_processor, max_pixels)
        self._template, self._asks_tasks = _chat_template(processor, name)
        self._switches = _thought_switches(self._template)
        control = _control_tokens(processor)
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.IGNORECASE)
        self._control_ids = frozenset(control.values())
        self._dropped_ids = _dropped_ids(self.tokenizer)
        self.break_control_tokens = lru_cache(1024)(self._break_control_tokens)
        self.spellings = lru_cache(256)(self._spellings)

    @property
    def resizing(self) -> tuple[int, int, int] | None:
        """How the image processor resizes, in families that resize as Qwen2-VL does; None in others."""
        return read_resizing(self.processor.image_processor)

    @property
    def pads_images(self) -> bool:
        """Whether the model sees an image in the middle of a square."""
        return self._preparation.pads_images

    def tokenize(self, image_inputs: ImageInputs, turns: Sequence[Turn]) -> TokenizedPrompt:
        """Tokenize a question about an image; the first call for an image fills in its inputs.

        Raises:
            ExpressionError: The prompt is too long for the model, or as in `render`.
            SpecError: As in `render`.
        """
        return self.tokenize_all([(image_inputs, turns)])[0]

    def tokenize_all(self, prompts: Sequence[tuple[ImageInputs, Sequence[Turn]]]) -> list[TokenizedPrompt]:
        """Tokenize several questions about several images, with few calls of the template and the tokenizer.

        Raises:
            Exception: As `tokenize`.
        """
        rendered = self.render_all([turns for _, turns in prompts])
        plain = zip(rendered, self._encode_all(rendered), strict=True)
        return [self._expand_or_prepare(inputs, *each) for (inputs, _), each in zip(prompts, plain, strict=True)]

    def _expand_or_prepare(self, image_inputs: ImageInputs, rendered: str, plain: TokenIds) -> TokenizedPrompt:
        self._require_fit(plain)
        if image_inputs.inputs and (prompt := self._expand(image_inputs, plain)) is not None:
            return prompt
        tensors = self.prepare(image_inputs.image, rendered)
        input_ids = tensors.pop("input_ids")
        ids = self._require_fit(tuple(input_ids[0].tolist()))
        token_inputs = {name: value for name, value in tensors.items() if value.shape[:2] == input_ids.shape}
        if not image_inputs.inputs:
            image_inputs.inputs = {name: value for name, value in tensors.items() if name not in token_inputs}
        expansion = PlaceholderExpansion.between(plain, ids, token_inputs)
        if len(expansion.before + expansion.removed) < len(plain):  # else the processor changes the text, too (PaliGemma)
            image_inputs.expansions.append(expansion)
        return TokenizedPrompt(ids, token_inputs)

    def prepare(self, image: Image, rendered: str) -> dict[str, Tensor]:
        """Return the processor's tensors: `input_ids` (1, n) of a rendered prompt, other inputs per token, and the image's."""
        images = [self._preparation.apply(image)]
        tensors = self.processor(text=[rendered], images=images, return_tensors="pt", **self._options(rendered))
        return {name: value for name, value in tensors.items() if name not in _UNUSED_INPUTS and isinstance(value, Tensor)}

    def token_ids(self, image_inputs: ImageInputs, turns: Sequence[Turn]) -> TokenIds:
        """Return the ids of `tokenize`, and raise as it does; the processor runs only until an expansion is recorded."""
        rendered = self.render(turns)
        prompt = self._expand(image_inputs, self._encode(rendered, **self._options(rendered)))
        return (prompt or self.tokenize(image_inputs, turns)).ids

    def answer_ids(self, turns: Sequence[Turn]) -> TokenIds:
        """Return the ids that a model must generate after the prompt of all turns but the last, the assistant's.

        They end with the control token that the template writes after the text, or with the tokenizer's end token if the
        template writes none. Raises SpecError if the template omits the answer, and what `render` raises.
        """
        prompt, conversation = self.render(turns[:-1]), self.render(turns, add_generation_prompt=False)
        text = self.break_control_tokens(turns[-1].text).strip()
        if conversation.startswith(prompt):
            conversation = conversation[len(prompt) :]
            start, at = 0, conversation.find(text)
        else:  # the template writes a generation prompt that differs from how it writes an answered turn
            start = at = conversation.rfind(text)
        if at < 0:
            raise SpecError(
                f"the chat template of {self.name!r} doesn't write the answer {text[:80]!r}: the model can't learn it"
            )
        closing = self._control.search(conversation, at + len(text))
        ending = conversation[at + len(text) : closing.end()] if closing else self.tokenizer.eos_token or ""
        return self._encode_after(prompt, conversation[start : at + len(text)] + ending)

    write, ids, answer = tokenize, token_ids, answer_ids  # former names

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt as the chat template writes it, with the image still a placeholder.

        If the template rejects or omits system turns, their text is moved to the start of the first user turn.

        Args:
            turns: Of any role. They end with the user's turn, or with the assistant's if `add_generation_prompt` is false.
            add_generation_prompt: Whether to continue to where the assistant answers.

        Raises:
            ExpressionError: The text of a turn can't be kept from being read as control tokens.
            SpecError: The template can't write the turns.
        """
        return self._render([Turn(turn.role, self.break_control_tokens(turn.text)) for turn in turns], add_generation_prompt)

    def render_all(self, prompts: Sequence[Sequence[Turn]]) -> list[str]:
        """Render several prompts as `render` does.

        Those that differ in their last turn alone, as questions about points do, are written into what the template makes of
        the first and of the last of them. Raises as `render`.
        """
        safe = self._break_all([turn.text for turns in prompts for turn in turns])
        groups: dict[tuple[Turn, ...], dict[str, str]] = {}
        keys = []
        for turns in prompts:
            *earlier, last = (Turn(turn.role, safe[turn.text]) for turn in turns)
            keys.append(((*earlier, Turn(last.role, "")), last.text))
            groups.setdefault(keys[-1][0], {})[last.text] = ""
        for (*earlier, last), by_text in groups.items():
            texts = list(by_text)
            for text in (texts[0], texts[-1]):
                by_text[text] = by_text[text] or self._render([*earlier, Turn(last.role, text)], True)
            around = _split_around(texts[0], by_text[texts[0]])
            if around != _split_around(texts[-1], by_text[texts[-1]]):
                around = None
            for text in texts[1:-1]:
                if around and text == text.strip():
                    by_text[text] = text.join(around)
                else:
                    by_text[text] = self._render([*earlier, Turn(last.role, text)], True)
        return [groups[turns][text] for turns, text in keys]

    def _render(self, safe: Sequence[Turn], add_generation_prompt: bool) -> str:
        """Render turns without control tokens."""
        system = [turn.text for turn in safe if turn.role == "system"]
        try:
            rendered = self._apply_template(safe, add_generation_prompt)
        except jinja2.TemplateError as error:
            if not system:
                raise SpecError(f"the chat template of {self.name!r} can't write the dialogue: {error}") from error
        else:
            if all(text.strip() in rendered for text in system):
                return rendered
        return self.render(_fold_system(safe), add_generation_prompt=add_generation_prompt)

    def _apply_template(self, turns: Sequence[Turn], add_generation_prompt: bool) -> str:
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        conversation = [
            {
                "role": turn.role,
                "content": [{"type": "image"}] * (i == first) + [{"type": "text", "text": turn.text}],
            }
            for i, turn in enumerate(turns)
        ]
        rendered = self.processor.apply_chat_template(
            conversation,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **self._switches,
        )
        return close_thought(str(rendered)) if add_generation_prompt else str(rendered)

    def _options(self, rendered: str) -> dict[str, bool]:
        """Keep the tokenizer from adding a second first token if the template, or the processor of tasks, writes one."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": not (bos and rendered.startswith(bos)) and not self._asks_tasks}

    def _break_control_tokens(self, text: str) -> str:
        """Put a space inside each control token (`< image>`), so that it is read as text.

        Only the ids show what a tokenizer takes for a control token, so the check compares ids, before and after.
        """
        if not self._has_control_token(text):
            return text
        broken = self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        if self._has_control_token(broken):
            broken = self._control.sub(" ", unicodedata.normalize("NFKC", text))
        if self._has_control_token(broken):
            raise ExpressionError(f"{self.name!r} reads control tokens in {text[:200]!r}: remove them")
        return broken

    def _break_all(self, texts: Sequence[str]) -> dict[str, str]:
        """Return each text as `break_control_tokens` does; those without control tokens are found by one call."""
        distinct = list(dict.fromkeys(texts))
        if len(distinct) < _FEW:
            return {text: self.break_control_tokens(text) for text in distinct}
        encoded = self.tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
        plain = {text for text, ids in zip(distinct, encoded, strict=True) if self._control_ids.isdisjoint(ids)}
        return {text: text if text in plain else self.break_control_tokens(text) for text in distinct}

    def _has_control_token(self, text: str) -> bool:
        return not self._control_ids.isdisjoint(self._encode(text))

    def _spellings(self, word: str) -> tuple[TokenIds, ...]:
        """Return the token sequences that can write a word at the start of an answer: with and without a leading space.

        Some templates end with the space, others leave it to the model ("ASSISTANT:" in LLaVA 1.5), and tokenizers differ in
        whether they add one to a single word.

        Raises:
            SpecError: This tokenizer can't write the word.
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

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, without control tokens but the marks of a thought and of boxes."""
        dropped = self._dropped_ids
        kept = [i for i in ids if i not in dropped]
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def _expand(self, image_inputs: ImageInputs, plain: TokenIds) -> TokenizedPrompt | None:
        """Replay a recorded expansion; None if no recorded prompt of the image starts like this one."""
        for expansion in image_inputs.expansions:
            if (ids := expansion.apply(plain)) is not None:
                return TokenizedPrompt(self._require_fit(ids), expansion.token_inputs)
        return None

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> TokenIds:
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoded["input_ids"])

    def _encode_all(self, rendered: Sequence[str]) -> list[TokenIds]:
        """Encode rendered prompts."""
        by_option: dict[bool, list[str]] = {}
        for text in dict.fromkeys(rendered):
            by_option.setdefault(self._options(text)["add_special_tokens"], []).append(text)
        encoded: dict[str, TokenIds] = {}
        for adds, texts in by_option.items():
            ids = self.tokenizer(texts, add_special_tokens=adds, verbose=False)["input_ids"]
            encoded.update(zip(texts, map(tuple, ids), strict=True))
        return [encoded[text] for text in rendered]

    def _encode_after(self, prompt: str, text: str) -> TokenIds:
        """Return the ids of a text that continues a rendered prompt, without merging tokens across the boundary."""
        options = self._options(prompt)
        before, whole = self._encode(prompt, **options), self._encode(prompt + text, **options)
        return whole[len(before) :] if whole[: len(before)] == before else self._encode(text)

    def _require_fit(self, ids: TokenIds) -> TokenIds:
        if self.longest is not None and len(ids) >= self.longest:
            raise ExpressionError(f"the question takes {len(ids)} tokens, {self.name!r} reads {self.longest}: shorten it")
        return ids


def _split_around(text: str, rendered: str) -> list[str] | None:
    """Return what stands before and after a text that stands once in a rendered prompt; None otherwise."""
    around = rendered.split(text) if text else []
    return around if len(around) == 2 else None


def _chat_template(processor: Any, name: str) -> tuple[str, bool]:
    """Return the chat template, and whether it is ours for a family that is asked tasks. Raises SpecError."""
    templates = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(templates, dict):
        templates = templates.get("default")
    if not templates and (template := _TASK_TEMPLATES.get(type(processor).__name__)):
        return template, True
    if not templates:
        raise SpecError(f"{name!r} has no chat template: expected an instruction-tuned checkpoint, not a pretrained base")
    return str(templates), False


def _control_tokens(processor: Any) -> dict[str, int]:
    """Return the tokens that the text of a turn must not produce, with their ids.

    These are special tokens, placeholders, and added tokens with characters other than letters, digits and spaces. The unknown
    token is allowed: it only says that a word is unknown. So are the marks of boxes (`<loc0012>`, `<box>`).
    """
    tokenizer = processor.tokenizer
    placeholders = {getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio", "boi", "eoi")}
    return {
        token.content: i
        for i, token in tokenizer.added_tokens_decoder.items()
        if i != tokenizer.unk_token_id
        and not _GROUNDING.fullmatch(token.content)
        and (token.special or token.content in placeholders or re.search(r"[^\w\s]", token.content))
    }


def _thought_switches(template: str) -> dict[str, bool]:
    """Return the variables by which a chat template is asked for no thought, those of them that it reads."""
    code = re.sub(r"'[^']*'|\"[^\"]*\"", "", " ".join(re.findall(r"\{[{%].*?[%}]\}", template, re.DOTALL)))
    return {name: False for name in ("enable_thinking", "thinking") if re.search(rf"(?<![.\w]){name}\b", code)}


def _dropped_ids(tokenizer: Any) -> frozenset[int]:
    """Return the special tokens that are left out of an answer's text: all but the marks of a thought and of boxes."""
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(i for i, text in special.items() if not is_thought_mark(text) and not _GROUNDING.fullmatch(text))


def _fold_system(turns: Sequence[Turn]) -> list[Turn]:
    """Move the text of system turns to the start of the first user turn."""
    system = [turn.text for turn in turns if turn.role == "system"]
    others = [turn for turn in turns if turn.role != "system"]
    first = next(i for i, turn in enumerate(others) if turn.role == "user")
    others[first] = Turn("user", "\n\n".join([*system, others[first].text]))
    return others
