"""How each tool writes its log, and how it is told from the others."""
