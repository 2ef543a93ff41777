"""The report: charts and one page of an audit. It draws what it is given and computes nothing."""
