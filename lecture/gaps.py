"""Cells of a notebook that do not apply to a profile: they say why, and the notebook goes on.

Importing it in a notebook, as `lecture.notebook` does, is enough.
"""

import ast
from contextlib import suppress
from dis import get_instructions
from typing import Any

from IPython import get_ipython

from tas_lib.records import NotRun

OURS = ("docs", "smoke")
"""The profiles that assertions in notebooks are about."""


class Gaps(ast.NodeTransformer):
    """Lets a notebook run to its end on any profile.

    A cell that raises NotRun, or needs a name that such a cell would have defined, prints "not run: ..." and the
    notebook goes on. An assertion is about the profiles in `OURS`; on another one it is printed if it does not hold.
    """

    def __init__(self, shell: Any) -> None:
        """shell: IPython's, which is running the cell that imports this."""
        self.shell, self.missing = shell, set[str]()
        shell.set_custom_exc((NotRun, NameError, AssertionError), self.explain)
        shell.ast_transformers.append(self)
        shell.events.register("pre_run_cell", lambda info: self.start(info.raw_cell))
        shell.events.register("post_run_cell", self.end)
        self.start(shell.user_ns.get("In", [""])[-1])

    @property
    def ours(self) -> bool:
        """Whether assertions are about this notebook's profile."""
        return self.shell.user_ns.get("PROFILE", OURS[0]) in OURS

    def start(self, cell: str) -> None:
        """Remember the values before a cell, and the names that it defines."""
        self.before, self.defines, self.explained = dict(self.shell.user_ns), set[str](), False
        with suppress(SyntaxError):  # which the cell itself will show
            tree = ast.parse(self.shell.transform_cell(cell))
            self.defines = {i.argval for i in get_instructions(compile(tree, "", "exec")) if i.opname == "STORE_NAME"}
            self.defines -= {ast.unparse(node.target) for node in ast.walk(tree) if isinstance(node, ast.AugAssign)}

    def explain(self, shell: Any, kind: type, error: Any, trace: Any, tb_offset: Any = None) -> None:
        """Print why a cell was not run, and forget what it would have defined."""
        if (kind is NameError and error.name not in self.missing) or (kind is AssertionError and self.ours):
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return
        reasons = {
            NameError: "it needs `{0.name}`, which was not run",
            AssertionError: "its assertion is false: {0}",
        }
        print("not run:", reasons.get(kind, "{0}").format(error))
        self.explained = True
        for name in self.defines:
            if self.before.get(name) is shell.user_ns.get(name):
                self.missing.add(name)
                shell.user_ns.pop(name, None)

    def end(self, result: Any) -> None:
        """A cell that was explained has not failed."""
        if self.explained:
            result.error_in_exec = None
        self.missing -= {*self.shell.user_ns}

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """On other profiles: a sentence if it does not hold."""
        if self.ours:
            return node
        text = f"False on this profile: {ast.unparse(node.test)}"
        test = ast.UnaryOp(ast.Not(), node.test)
        said = ast.Expr(ast.Call(ast.Name("print", ast.Load()), [ast.Constant(text)], []))
        return ast.fix_missing_locations(ast.copy_location(ast.If(test, [said], []), node))


if shell := get_ipython():
    Gaps(shell)
