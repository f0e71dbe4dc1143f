"""The one page maker, and the pages made with it."""
