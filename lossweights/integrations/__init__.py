"""Criteria inside the trainers of other libraries; each module needs the one it is named for."""
