"""From records to conclusions: paired tests, the Pareto front, the table and the report."""

from workbench.compare.paired import compare_methods
from workbench.compare.report import write_report
from workbench.compare.tables import table

__all__ = ["compare_methods", "table", "write_report"]
