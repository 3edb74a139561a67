"""Results as data: measurements, the JSON files that they write, and the pages made of those."""
