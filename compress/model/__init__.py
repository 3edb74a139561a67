"""The three contracts: SRModel (a network), Source (where one begins), Pass (what changes it)."""
