"""Files of any kind: names and versions over the blobs of a workspace; see `WorkspaceStore.files`.

`content` and `codecs` turn what a caller has into bytes, `intake` writes them as a draft, `record` decides what
the put means and records it, `reading` brings content out checked, `removing` plans and executes deletions.
"""
