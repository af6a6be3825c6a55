"""What every report is made of: intervals, statistics of a series, Markdown and HTML pages, plots, progress."""
