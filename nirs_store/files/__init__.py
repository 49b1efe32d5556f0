"""Files of any kind: names and versions over the blobs of a workspace; see `WorkspaceStore.files`.

`api` is the index. `put` stores (`content` turns what a caller has into a draft), `find` and `output` bring files
out, `change` alters and deletes, `groups` and `runs` are about several files; `scope` says what a view shows, and
`rows` and `names` what the catalog and the words mean.
"""
