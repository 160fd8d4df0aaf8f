"""The watched folder: a pure diff of snapshots and a pure catalog of documents, in an async shell."""
