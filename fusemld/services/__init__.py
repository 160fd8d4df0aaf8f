"""Supervision of embedded services and of the servers of applications."""
