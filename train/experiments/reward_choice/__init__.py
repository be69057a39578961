"""Which reward trains best? Every row of the table on grace-nano, several seeds each, by one resumable command.

| module | what |
|---|---|
| `rows` | the table: what is compared |
| `start_models` | the two models that runs start from |
| `measure` | the columns |
| `table`, `markdown` | from files to means, deviations and Markdown |
| `cli` | the command |

One run, runs side by side, their digests and spreads are the `harness`'s.
"""
