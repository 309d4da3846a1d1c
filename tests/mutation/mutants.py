"""Small faults in a module's source, one at a time: what a test suite should notice."""

import ast
import copy
from collections.abc import Iterator
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
        line: Where it is.
        change: What it is, as in "Lt to LtE".
        source: The whole module.
    """

    line: int
    change: str
    source: str


def list_mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module. Annotations, docstrings and `__all__` are left alone."""
    tree = ast.parse(source)
    places = [node for node in _walk_code(tree) if next(_mutate(copy.deepcopy(node)), None) is not None]
    mutants = []
    for node in places:
        for number, _ in enumerate(_mutate(copy.deepcopy(node))):
            original = copy.copy(node.__dict__)
            change = _apply(node, number)
            mutants.append(Mutant(getattr(node, "lineno", 0), change, ast.unparse(tree)))
            node.__dict__.clear()
            node.__dict__.update(original)
    return mutants


def _walk_code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that do something."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_inert(child):
                yield from _walk_code(child)


def _is_inert(node: ast.AST) -> bool:
    """Whether a statement is a docstring, `__all__` or an import for annotations."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _apply(node: ast.AST, number: int) -> str:
    """Change a node in place by its mutation of that number; return what was done."""
    for index, (change, fields) in enumerate(_mutate(node)):
        if index == number:
            for name, value in fields.items():
                setattr(node, name, value)
            return change
    raise AssertionError


def _mutate(node: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the changes of a node, each as a name and the fields to set."""
    match node:
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                other = _COMPARISONS[type(operator)]
                yield f"{type(operator).__name__} to {other.__name__}", {"ops": [*node.ops[:i], other(), *node.ops[i + 1 :]]}
        case ast.BoolOp():
            changed = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield f"{type(node.op).__name__} to {type(changed).__name__}", {"op": changed}
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield f"{type(op).__name__} to {_OPERATORS[type(op)].__name__}", {"op": _OPERATORS[type(op)]()}
        case ast.UnaryOp(op=ast.Not()):
            yield "not left out", {"op": ast.Not(), "operand": ast.UnaryOp(ast.Not(), node.operand)}
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition negated", {"test": ast.UnaryOp(ast.Not(), node.test)}
        case ast.Constant(value=bool() as truth):
            yield f"{truth} to {not truth}", {"value": not truth}
        case ast.Constant(value=(int() | float()) as number):
            yield f"{number} to {number + 1}", {"value": number + 1}
        case ast.Return(value=ast.expr()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None", {"value": ast.Constant(None)}
    value = getattr(node, "body", None)
    body = value if isinstance(value, list) else []
    for i, statement in enumerate(body):
        if isinstance(statement, ast.Raise | ast.Expr) and not _is_inert(statement):
            yield f"{type(statement).__name__} left out", {"body": [*body[:i], ast.Pass(), *body[i + 1 :]]}
