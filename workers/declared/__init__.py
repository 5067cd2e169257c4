"""Change what is declared in Git first: whatever stands there wins over a live patch, at the next reconcile.

`files` finds the manifest that declares an object, `changes` says what shall be different and edits it,
`repository` commits and pushes, `reconcile` waits until Flux has applied exactly that commit.
"""
