"""The suite: every twin against its stock model, and against what a user would try instead.

`run` measures `cases` in `variants` (`memory`, `timing`), one process each, steps on a GPU as
`steps` says; `comparison` makes ratios of the files that they leave, `tables` and `charts` show
them.
"""
