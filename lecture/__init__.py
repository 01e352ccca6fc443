"""What only notebooks and slides use.

`notebook` (sources, small tables, exercises), `gaps` (cells that do not apply), `answers` (findings in words),
`pictures` (that explain), `explore` (what moves).
"""
