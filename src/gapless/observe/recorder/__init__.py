"""The embedded record of metrics: a day of all that was scraped, in bounded memory and on a bounded piece of disk."""
