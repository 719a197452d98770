"""The live page of a job: what it shows, its health in one word, and the server that sends it to browsers."""
