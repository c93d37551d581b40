"""What is wrong with a data file: signs in a text, a tally over all rows, findings, a page to read."""
