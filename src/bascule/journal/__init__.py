"""The host's durable record: what it owns, offers and takes, and its moves with every fact.

- `schema`: the tables and their version
- `records`: the rows as dataclasses; `rows`: from the one to the other
- `journal`: the only door to the database, one SQLite connection in one dedicated thread

A method that returns has made its change durable (WAL, synchronous=FULL), except `note_fact`, which is written soon.
"""
