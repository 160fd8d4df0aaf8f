"""What plugins implement (`specs`, `steps`, `services`, `resolvers`, `executors`) and how they are found."""
