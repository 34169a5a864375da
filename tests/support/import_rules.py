"""Kinds of import-linter contracts that import-linter does not bring itself."""

import sys
from collections.abc import Iterable
from typing import Any, override

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


# The fields are descriptors: reading one gives what the configuration says.
class Allowlist(Contract):
    """The modules import the standard library and the allowed modules, and nothing else at all.

    import-linter's own `forbidden` names what is not allowed: a new library would slip through.
    """

    modules: Any = fields.SetField(subfield=fields.StringField())
    allowed: Any = fields.SetField(subfield=fields.StringField())

    @override
    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        allowed = sys.stdlib_module_names | matching(graph, self.allowed)
        return verdict(
            f"{module} imports {imported}"
            for module in matching(graph, self.modules)
            for imported in graph.find_modules_directly_imported_by(module) - allowed
        )

    @override
    def render_broken_contract(self, check: ContractCheck) -> None:
        render(check)


class Importers(Contract):
    """Within a package, the imported modules are known to the importers alone."""

    within: Any = fields.StringField()
    imported: Any = fields.SetField(subfield=fields.StringField())
    importers: Any = fields.SetField(subfield=fields.StringField())

    @override
    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        allowed = matching(graph, self.importers)
        inside = matching(graph, [self.within, f"{self.within}.**"])
        return verdict(
            f"{module} imports {imported}"
            for imported in matching(graph, self.imported)
            for module in graph.find_modules_that_directly_import(imported) & inside - allowed
        )

    @override
    def render_broken_contract(self, check: ContractCheck) -> None:
        render(check)


def matching(graph: ImportGraph, expressions: Iterable[str]) -> set[str]:
    """The modules that expressions such as `services.*.domain` name; one that names none yet is no error."""
    return {module for expression in expressions for module in graph.find_matching_modules(expression)}


def verdict(illegal: Iterable[str]) -> ContractCheck:
    """Kept when there is nothing illegal."""
    lines = sorted(illegal)
    return ContractCheck(kept=not lines, metadata={"illegal": lines})


def render(check: ContractCheck) -> None:
    """Prints what broke the contract."""
    for line in check.metadata["illegal"]:
        output.print_error(f"- {line}")
