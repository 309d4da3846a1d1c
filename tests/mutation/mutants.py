"""Small faults in a module's source, one at a time: what a test suite should notice."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Mutant", "list_mutants"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        change: What it is, as in "Lt to LtE".
        lines: Those of the statement that it is in, from 1; of a compound statement, those of its head.
        names: What uses these lines where they run on import: the constant that is assigned, the function or class around it.
        source: The whole module.
    """

    change: str
    lines: range
    names: frozenset[str]
    source: str


@dataclass(frozen=True)
class _Place:
    """A node that can be changed, and the statement that it is in."""

    node: ast.AST
    lines: range
    names: frozenset[str]


def list_mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module. Annotations, docstrings, `__all__` and the wording of errors are left alone."""
    tree = ast.parse(source)
    places = [place for place in _walk_code(_Place(tree, range(0), frozenset())) if any(True for _ in _mutate(place.node))]
    mutants = []
    for place in places:
        for fields, change, lines in list(_mutate(place.node)):
            original = {name: getattr(place.node, name) for name in fields}
            _set_fields(place.node, fields)
            mutants.append(Mutant(change, lines or place.lines, place.names, ast.unparse(tree)))
            _set_fields(place.node, original)
    return mutants


def _set_fields(node: ast.AST, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        setattr(node, name, value)


def _walk_code(place: _Place) -> Iterator[_Place]:
    """Yield the nodes that do something."""
    yield place
    for field, value in ast.iter_fields(place.node):
        if field in ("annotation", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_inert(child, place.node):
                yield from _walk_code(_place_child(child, place))


def _place_child(node: ast.AST, parent: _Place) -> _Place:
    if not isinstance(node, ast.stmt):
        return _Place(node, parent.lines, parent.names)
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            names = parent.names | {name}
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            names = parent.names or frozenset(named)
        case _:
            names = parent.names
    return _Place(node, _list_lines(node), frozenset(names))


def _list_lines(node: ast.stmt) -> range:
    """Return the lines of a statement, or of its head."""
    body = getattr(node, "body", None)
    decorators = [each.lineno for each in getattr(node, "decorator_list", ())]
    end = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno or node.lineno
    return range(min([node.lineno, *decorators]), max(end, node.lineno) + 1)


def _is_inert(node: ast.AST, parent: ast.AST) -> bool:
    """Whether a node does nothing: a docstring, `__all__`, the wording of an error."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.JoinedStr) and isinstance(parent, ast.Call):
        return isinstance(parent.func, ast.Name) and parent.func.id.endswith("Error")
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _mutate(node: ast.AST) -> Iterator[tuple[dict[str, object], str, range | None]]:
    """Yield the changes of a node: the fields to set, what that is, and the lines where they are not the node's own."""
    match node:
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                other = _COMPARISONS[type(operator)]
                ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                yield {"ops": ops}, f"{type(operator).__name__} to {other.__name__}", None
        case ast.BoolOp():
            changed = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield {"op": changed}, f"{type(node.op).__name__} to {type(changed).__name__}", None
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield {"op": _OPERATORS[type(op)]()}, f"{type(op).__name__} to {_OPERATORS[type(op)].__name__}", None
        case ast.UnaryOp(op=ast.Not()):
            yield {"operand": ast.UnaryOp(ast.Not(), node.operand)}, "not left out", None
        case ast.If() | ast.While() | ast.IfExp():
            yield {"test": ast.UnaryOp(ast.Not(), node.test)}, "condition negated", None
        case ast.Constant(value=bool() as truth):
            yield {"value": not truth}, f"{truth} to {not truth}", None
        case ast.Constant(value=(int() | float()) as number):
            yield {"value": number + 1}, f"{number} to {number + 1}", None
        case ast.Return(value=ast.expr()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield {"value": ast.Constant(None)}, "return None", None
    for field in ("body", "orelse", "finalbody"):
        value = getattr(node, field, None)
        body: list[ast.stmt] = value if isinstance(value, list) else []
        for i, statement in enumerate(body):
            if isinstance(statement, ast.Raise | ast.Expr) and not _is_inert(statement, node):
                change = f"{type(statement).__name__} left out"
                yield {field: [*body[:i], ast.Pass(), *body[i + 1 :]]}, change, _list_lines(statement)
