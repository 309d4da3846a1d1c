"""Which small faults are made in a module, and where they are said to be."""

import ast

from tests.mutation.mutants import list_mutants

SOURCE = '''"""A module of 3 lines."""
LIMIT = 3


def check(count: int = 0) -> bool:
    """Return whether it is over 3."""
    if count > LIMIT:
        raise ValueError(
            f"over {LIMIT + 1}"
        )
    return not count
'''


def test_each_fault_is_made_once_and_in_no_wording() -> None:
    mutants = list_mutants(SOURCE)
    assert [(mutant.change, mutant.lines, set(mutant.names)) for mutant in mutants] == [
        ("3 to 4", range(2, 3), {"LIMIT"}),
        ("0 to 1", range(5, 6), {"check"}),
        ("condition negated", range(7, 8), {"check"}),
        ("Raise left out", range(8, 11), {"check"}),
        ("Gt to GtE", range(7, 8), {"check"}),
        ("return None", range(11, 12), {"check"}),
        ("not left out", range(11, 12), {"check"}),
    ]
    plain = ast.unparse(ast.parse(SOURCE))
    assert len({mutant.source for mutant in mutants} - {plain}) == len(mutants)
    assert mutants[3].source == plain.replace("raise ValueError(f'over {LIMIT + 1}')", "pass")
    assert mutants[-1].source == plain.replace("return not count", "return not not count")
