"""From files to a corpus in which every document is kept or dropped with a reason. No torch."""
