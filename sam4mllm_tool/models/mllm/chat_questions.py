"""Answer questions through a chat API, with no I/O: which requests to send, and how to read labels and probabilities.

Words are scored by the probabilities of the tokens that begin them, where the API gives those. Where it gives none, all
questions with the same previous turns are asked as one numbered question, and what its answer doesn't say is asked alone.
Probabilities are unknown then, unless votes are wanted: the shares of several sampled answers.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sam4mllm_tool.errors import ExpressionError, quote_text
from sam4mllm_tool.models.mllm.chat_flow import AnswerToken, ChatAnswer, ChatFeatures, ChatFlow, ChatRequest
from sam4mllm_tool.types import FreeText, Labels, Question, Reply, Tokens, Turn

__all__ = ["answer_questions", "build_request", "refuse_control_tokens"]

_LABEL_TOKENS = 4
"""Tokens of one label: a word, and maybe a line break or a mark before it."""
_MAX_NUMBERED = 30
"""Questions in one numbered question."""
_MIN_MASS = 0.01
"""Probability that the words must have together. With less the model was about to say something else."""
_NUMBERED = (
    "Answer each of these {count} questions by itself, on a line of its own, as its number, a dot and {words}; nothing else."
)
_SHARED = "All of them begin with this text; how each ends stands after its number:"
"""Where questions share their first sentences, which are written once."""
_CONTROL_TOKENS = re.compile(
    r"<\|[\w ]{1,40}\|>|<(?:start|end)_of_(?:turn|image)>|\[/?(?:INST|IMG)\]|<</?SYS>>|</?s>|<image>|<__media__>|<IMG_CONTEXT>"
)
"""Marks by which chat templates tell turns and images apart; servers read them in a text, too."""


def answer_questions(questions: Sequence[Question], features: ChatFeatures) -> ChatFlow:
    """Answer questions about one image.

    Raises:
        ExpressionError: As `refuse_control_tokens`.
    """
    refuse_control_tokens(questions)
    replies: dict[int, Reply] = {}
    answered: list[list[ChatAnswer]] = [[] for _ in questions]
    groups = [] if features.gives_probabilities or not features.answers_numbered else _group(questions)
    grouped = {index for group in groups for index in group}
    alone = [index for index in range(len(questions)) if index not in grouped]
    requests = [build_request(questions[index]) for index in alone]
    answers = yield requests + [_build_numbered([questions[index] for index in group]) for group in groups]
    for index, answer in zip(alone, answers, strict=False):
        replies[index] = read_reply(questions[index], answer)
        answered[index].append(answer)
    for group, answer in zip(groups, answers[len(alone) :], strict=True):
        read = _read_numbered([questions[index] for index in group], answer)
        replies |= {index: reply for index, reply in zip(group, read, strict=True) if reply is not None}
        for index, share in zip(group, _share_counts(answer, len(group)), strict=True):
            answered[index].append(share)
        features.answers_numbered = any(reply is not None for reply in read)
    if missing := [index for index in range(len(questions)) if index not in replies]:
        answers = yield [build_request(questions[index]) for index in missing]
        for index, answer in zip(missing, answers, strict=True):
            replies[index] = read_reply(questions[index], answer)
            answered[index].append(answer)
    ordered = [replies[index] for index in range(len(questions))]
    if features.votes and not features.gives_probabilities:
        ordered = yield from _add_votes(questions, ordered, answered, features.votes)
    return [_count(reply, taken) for reply, taken in zip(ordered, answered, strict=True)]


def refuse_control_tokens(questions: Sequence[Question]) -> None:
    """Refuse questions whose text a server could take for the end of a turn, or for another image.

    Raises:
        ExpressionError: Names the control token.
    """
    for question in questions:
        for turn in question.turns:
            if turn.role != "assistant" and (match := _CONTROL_TOKENS.search(turn.text)):
                raise ExpressionError(f"the control token {quote_text(match[0])} can't be sent to a remote model: leave it out")


def read_reply(question: Question, answer: ChatAnswer) -> Reply:
    """Return the reply to a question that was asked alone; the answer's own text where no labels can be read from it."""
    expected, tokens = question.answer, answer.answer_tokens
    if isinstance(expected, FreeText):
        logarithm = None if not tokens else min(0.0, math.fsum(token.log_probability for token in tokens))
        return Reply(answer.text, log_probability=logarithm)
    if tokens is not None and (rows := _score_labels(expected, tokens)):
        words = [expected.words[row.index(max(row))] for row in rows]
        return Reply("".join(words), rows)
    if expected.count == 1 and (match := re.match(rf"\W*({_either(expected.words)})\b", answer.text, re.IGNORECASE)):
        return Reply(_spell(match[1], expected.words))
    return Reply(answer.text)


def build_request(question: Question) -> ChatRequest:
    """Return the request that asks a question alone."""
    answer = question.answer
    if isinstance(answer, FreeText):
        return ChatRequest(question.turns, answer.max_tokens)
    return ChatRequest(question.turns, _LABEL_TOKENS * answer.count, answer.words, answer.count)


# Probabilities ---------------------------------------------------------------------------------------------------------


def _score_labels(expected: Labels, tokens: Sequence[AnswerToken]) -> tuple[tuple[float, ...], ...] | None:
    """Return the probability of each word at each label; None where the answer has another form."""
    if expected.count == 1:
        first = next((token for token in tokens if token.text.strip("\n\r\t */\"'`")), None)
        row = _score_words(first, expected.words) if first is not None else None
        return None if row is None else (row,)
    starts, text = [], ""
    for token in tokens:
        starts.append(len(text))
        text += token.text
    words = list(re.finditer(_either(expected.words), text, re.IGNORECASE))
    by_start = {start + len(token.text) - len(token.text.lstrip()): token for start, token in zip(starts, tokens, strict=True)}
    rows = [_score_words(by_start[word.start()], expected.words) for word in words if word.start() in by_start]
    complete = tuple(row for row in rows if row is not None)
    return complete if len(complete) == len(words) == expected.count else None


def _score_words(token: AnswerToken, words: Sequence[str]) -> tuple[float, ...] | None:
    """Return the probabilities of the words where a token stands, which sum to 1; None where it begins none of them.

    A word that is not among the alternatives is less probable than all of them, and counts as 0.
    """
    masses = [0.0] * len(words)
    for text, logarithm in token.alternatives.items():
        if (index := _find_word(text, words)) is not None:
            masses[index] += math.exp(min(logarithm, 0.0))
    total = math.fsum(masses)
    return tuple(mass / total for mass in masses) if total >= _MIN_MASS else None


def _find_word(token: str, words: Sequence[str]) -> int | None:
    """Return the index of the only word that a token begins, or spells with a mark after it."""
    text = token.strip().casefold()
    folded = [word.casefold() for word in words]
    begun = [index for index, word in enumerate(folded) if text and word.startswith(text)]
    if len(begun) > 1:
        begun = [index for index in begun if folded[index] == text]
    begun = begun or [index for index, word in enumerate(folded) if re.match(rf"{re.escape(word)}(?!\w)", text)]
    return begun[0] if len(begun) == 1 else None


# Numbered questions ----------------------------------------------------------------------------------------------------


def _group(questions: Sequence[Question]) -> list[list[int]]:
    """Return the indexes of questions for one label that share their previous turns and words, two or more together."""
    by_turns: dict[tuple[object, ...], list[int]] = {}
    for index, question in enumerate(questions):
        if isinstance(question.answer, Labels) and question.answer.count == 1:
            by_turns.setdefault((question.turns[:-1], question.answer.words), []).append(index)
    parts = (group[i : i + _MAX_NUMBERED] for group in by_turns.values() for i in range(0, len(group), _MAX_NUMBERED))
    return [part for part in parts if len(part) > 1]


def _build_numbered(questions: Sequence[Question]) -> ChatRequest:
    words = _words(questions[0])
    shared, ends = _split_shared_start([question.turns[-1].text for question in questions])
    head = _NUMBERED.format(count=len(questions), words=" or ".join(words)) + (f" {_SHARED}\n{shared}" if shared else "")
    lines = [f"{number}. {end}" for number, end in enumerate(ends, start=1)]
    turn = Turn("user", "\n".join([head, *lines]))
    return ChatRequest((*questions[0].turns[:-1], turn), max_tokens=16 * (len(questions) + 1))


def _split_shared_start(texts: Sequence[str]) -> tuple[str, list[str]]:
    """Split the sentences with which all texts begin from what follows in each; "" where they share no whole sentence."""
    length = sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)))
    sentences = re.match(r".*[.?!]\s", texts[0][:length], re.DOTALL)
    end = sentences.end() if sentences else 0
    return texts[0][:end].strip(), [text[end:] for text in texts]


def _read_numbered(questions: Sequence[Question], answer: ChatAnswer) -> list[Reply | None]:
    """Return a reply for each number that the answer gives one word for; without any numbers, the words in order."""
    words, count = _words(questions[0]), len(questions)
    lines = re.findall(rf"(?<![\d.])(\d{{1,3}})[\"'*]*\s*[.:)\]-]\s*[\"'*\s]*({_either(words)})\b", answer.text, re.IGNORECASE)
    spelled: dict[int, set[str]] = {}
    for number, word in lines:
        spelled.setdefault(int(number), set()).add(_spell(word, words))
    if not lines:
        in_order = re.findall(rf"\b({_either(words)})\b", answer.text, re.IGNORECASE)
        spelled = {number: {_spell(word, words)} for number, word in enumerate(in_order, start=1) if len(in_order) == count}
    texts = [next(iter(spelled[number])) if len(spelled.get(number, ())) == 1 else None for number in range(1, count + 1)]
    return [None if text is None else Reply(text) for text in texts]


# Counts ----------------------------------------------------------------------------------------------------------------


def _share_counts(answer: ChatAnswer, count: int) -> list[ChatAnswer]:
    """Count what one answer to several questions took with the first of them, and nothing with the others."""
    free = replace(
        answer,
        tokens=None if answer.tokens is None else Tokens(0, 0),
        cached_tokens=None if answer.cached_tokens is None else 0,
        requests=0,
    )
    return [answer, *[free] * (count - 1)]


def _count(reply: Reply, answers: Sequence[ChatAnswer]) -> Reply:
    """Return a reply with what all answers that it took, took together."""
    counts = [answer.tokens for answer in answers if answer.tokens is not None]
    tokens = Tokens(sum(each.read for each in counts), sum(each.written for each in counts))
    cached = [answer.cached_tokens for answer in answers if answer.cached_tokens is not None]
    return replace(
        reply,
        tokens=tokens if len(counts) == len(answers) else None,
        cached_tokens=sum(cached) if cached else None,
        requests=sum(answer.requests for answer in answers),
    )


# Votes -----------------------------------------------------------------------------------------------------------------


def _add_votes(
    questions: Sequence[Question], replies: list[Reply], answered: Sequence[list[ChatAnswer]], votes: int
) -> ChatFlow:
    """Estimate the probabilities of single labels by asking again, at random, and counting the readable answers."""
    indexes = [
        index for index, question in enumerate(questions) if isinstance(question.answer, Labels) and question.answer.count == 1
    ]
    requests = [replace(build_request(questions[index]), is_sampled=True) for index in indexes for _ in range(votes)]
    answers = yield requests
    for place, index in enumerate(indexes):
        words = _words(questions[index])
        drawn = answers[place * votes : (place + 1) * votes]
        answered[index].extend(drawn)
        texts = [read_reply(questions[index], answer).text for answer in drawn]
        counts = Counter(text for text in texts if text in words)
        if total := counts.total():
            row = tuple(counts[word] / total for word in words)
            replies[index] = replace(replies[index], text=words[row.index(max(row))], label_probabilities=(row,))
    return replies


def _words(question: Question) -> tuple[str, ...]:
    assert isinstance(question.answer, Labels)
    return question.answer.words


def _either(words: Sequence[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _spell(text: str, words: Sequence[str]) -> str:
    """Return the word as the question spells it."""
    return next(word for word in words if word.casefold() == text.casefold())
