// The pass that comes before the others where a rule keeps a number for each row and column: it
// reads the gradients and changes those states.
#pragma once
#include "walk.hpp"

namespace gradstep::pipeline {

// The same bits on any threads and target: a row is added up in lanes, as all sums are. A matrix is
// cut into bands of rows by its shape alone; a column is added up from top to bottom within each
// band, and then the bands' sums are, in their order.
class FactoredPass {
public:
    FactoredPass(const Table& table, const std::vector<Tensor>& tensors,
                 const std::vector<Gradient>& gradients, const Settings& settings, Scratch& scratch)
        : table_(table), tensors_(tensors), gradients_(gradients), settings_(settings),
          scratch_(scratch) {}

    // For every tensor that has a gradient and such states.
    void run();

private:
    // Matrices of one tensor, and how each of them is cut.
    struct Item {
        Scratch::Active* active;
        int64_t matrices, band_rows, bands;
        size_t row_sums, column_sums;    // where they begin
    };
    // Bands of one tensor that a thread takes, counted over its matrices.
    struct Part {
        size_t item;
        int64_t first, end;
    };

    const Table& table_;
    const std::vector<Tensor>& tensors_;
    const std::vector<Gradient>& gradients_;
    const Settings& settings_;
    Scratch& scratch_;
    std::vector<Item> items_;
    std::vector<Part> parts_;
    int64_t bytes_ = 0;

    const Tensor& tensor_of(const Item& item) const { return tensors_[item.active->tensor]; }
    void lay_out();
    void cut(size_t index);
    void add(const Item& item, int64_t band) const;
    void add_row(const Item& item, int64_t row, double* columns) const;
    void add_block(const Item& item, int64_t element, int64_t n, double* columns,
                   double* lanes) const;
    void finish(const Item& item, int64_t matrix) const;
};

}    // namespace gradstep::pipeline
