"""Small tools that need no model: text differences and data file formatting."""
