"""fusemld plugin: S3 object stores, one of them embedded."""
