"""Records told to observers, in the words of other tools. Each module needs an extra of its own name, and is never imported by itself."""
