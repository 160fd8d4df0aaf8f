"""The `fuseml` client and the `fusemld` entry point, thin."""
